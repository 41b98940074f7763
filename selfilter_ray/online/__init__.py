"""Selection from a stream: samples are admitted or refused as they arrive, in a fixed order."""
