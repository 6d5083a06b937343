"""From bytes to events and back, without I/O: frames, inflating, decoding, the conversation."""
