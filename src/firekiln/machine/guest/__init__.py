"""PID 1 of a guest, from the host: its document, its initramfs, and the protocol that it speaks."""
