"""The field's standard networks, by name, for any input shape; any other network comes by import path."""
