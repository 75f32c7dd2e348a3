"""Turn a prompt into the messages a tier is sent: policies, token estimates and cutting to fit."""
