"""How numbers, times and settings read in sentences and tables."""


def duration(seconds: float) -> str:
    """A time span as a person would say it."""
    if seconds < 0.005:
        return "< 0.01 s"
    if seconds < 9.95:
        return f"{seconds:.2f} s" if seconds < 0.995 else f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def number(value: float, digits: int = 0) -> str:
    """A number with thousands separated, a true minus but of 0, and ∞ where it is infinite."""
    return f"{value:z,.{digits}f}".replace("-", "−").replace("inf", "∞")


def sample_size(n: int) -> str:
    """The statement of a sample size, with spaces that do not break."""
    return f"n\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}{n:,}"


def setting(value: object) -> str:
    """A value of a configuration: sequences without their brackets, floats without noise."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list | tuple):
        return ", ".join(setting(item) for item in value)
    return str(value)
