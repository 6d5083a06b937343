"""The documentation is tested: its code is run, what it shows is compared, what it lists exists."""
