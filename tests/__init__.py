"""The specification of egoctl, as tests."""
