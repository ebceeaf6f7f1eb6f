"""The Open Inference Protocol (V2) over gRPC. What it says is `mpack_runtime.v2`'s; only `port` is for the master."""
