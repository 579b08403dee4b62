"""Machines: specification, kernel, initramfs, VMM back ends, agent, network, state, supervision."""
