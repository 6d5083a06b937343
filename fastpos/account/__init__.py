"""What is known of an account, merged; calls nobody."""
