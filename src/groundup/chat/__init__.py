"""Conversations: the formats people keep them in, chat templates, which tokens are trained, packing, and the audit."""
