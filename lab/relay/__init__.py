"""A TCP relay that counts bytes and misbehaves on order, and the links that it stands for."""
