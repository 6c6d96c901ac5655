"""Generated protobuf modules and the .proto files they come from; regenerate with scripts/gen-proto."""
