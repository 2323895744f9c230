"""The server below the containers: facts, checks, engine, firewall."""
