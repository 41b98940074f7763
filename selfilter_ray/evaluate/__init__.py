"""What a tuned VLM says to records that it was not tuned on."""
