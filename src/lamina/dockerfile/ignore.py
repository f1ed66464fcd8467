def parse_patterns(text: str) -> tuple[str, ...]:
    return ()
