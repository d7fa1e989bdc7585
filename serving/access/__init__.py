"""Who may ask for what: roles, tokens, the layer in front of the server, and the audit log.

roles.py     which role a path needs
policy.py    from an Authorization header to a person: static tokens or OIDC
layer.py     the ASGI layer that asks, refuses and writes the audit log
audit.py     append-only, hash-chained log; signed heads outside it
verify.py    finds any line that was changed, cut or dropped
"""
