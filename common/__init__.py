"""What server and institutions must agree on."""
