"""Virtual machine monitors: what a machine is made of, and the back ends that run it: QEMU and Firecracker."""
