"""The kinds of VLM that Stage 1 trains, one small adapter each."""
