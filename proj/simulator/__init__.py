"""Clusters that speak RAPI over TLS, for the demo, for scale and for faults.

Held to the real Ganeti by the contract tests. It imports no other room.
"""
