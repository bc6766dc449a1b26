"""The parts of train_offline.py: environment and behaviour policy, agent, the same algorithm in plain torch, figure."""
