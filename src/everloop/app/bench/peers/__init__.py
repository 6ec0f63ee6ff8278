"""What everloop is compared with: servers that one could have written instead. Each runs as `python FILE`, on its own."""
