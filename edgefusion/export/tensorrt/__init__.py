"""What TensorRT needs of an ONNX graph, made and checked on the host: operators, opset, eight bits, static shapes."""
