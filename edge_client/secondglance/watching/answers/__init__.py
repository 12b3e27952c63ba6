"""Answers on their way out: they wait on disk (outbox) until a program or a web hook (delivery) has them."""
