"""The soak: everything goes wrong for some minutes, then what was sent is compared with what history holds."""
