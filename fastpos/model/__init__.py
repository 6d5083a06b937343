"""What the exchange says: events, their fields, snapshots."""
