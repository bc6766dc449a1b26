"""A VGF agent in flax, written twice: in plain jax.numpy and on vgf_kernels.jax. See jax_agent.py."""
