"""What the checkout's own tools are made of; nothing of it is installed on a host."""
