"""Tiny worlds, drawn videos, small stores and servers that tests share; no test lies here."""
