"""Pulumi provider plugins that work without a cloud account.

The real engine talks to them as to the official plugins; they talk to emulators (moto,
fake-gcs-server), to any Kubernetes API, or make things on this machine.  The modules named like
Pulumi packages (``aws``, ``gcp``, ``kubernetes``, ``command``, ``tls``, ``random``) hold a table
``TYPES`` of the resource types each can handle; to support another type, add an entry there.
"""
