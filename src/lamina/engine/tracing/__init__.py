"""Builds as OpenTelemetry traces, sent to a collector when OTEL_* asks for it. docs/adr/0013-traces.md."""
