"""Sends models and data sets to the Hugging Face hub, with cards, hashes and licences."""
