"""How may a snapshot's fidelity have been measured?"""

PROTOCOLS = {"parity": "all", "leave_one_out": "train", "held_out": "train"}
"""Each protocol, with the split of the corpus that a snapshot must have indexed to be measured so."""
