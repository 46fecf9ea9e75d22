"""What becomes of every model that the onnx package brings, end to end."""
