"""Tests of pipeline/finetuning/."""
