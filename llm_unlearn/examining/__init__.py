"""What is measured of any model alike: what it forgot, and what else it can still do."""
