"""Other quantizers' interfaces to our pipeline, one module each, named as theirs."""
