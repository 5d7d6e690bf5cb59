"""How numbers, times and settings read in sentences and tables."""


def duration(seconds: float) -> str:
    """A time span as a person would say it.

    Example:
        >>> [duration(s) for s in (0.001, 0.042, 8.94, 134, 3780)]
        ['< 0.01 s', '0.04 s', '8.9 s', '2 min 14 s', '1 h 03 min']
    """
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
    """A number with thousands separated, a true minus but of 0, and ∞ where it is infinite.

    Example:
        >>> number(60000), number(-1.5, 1), number(-0.01, 1), number(float("inf"))
        ('60,000', '−1.5', '0.0', '∞')
    """
    return f"{value:z,.{digits}f}".replace("-", "−").replace("inf", "∞")


def sample_size(n: int) -> str:
    """The statement of a sample size, with spaces that do not break."""
    return f"n\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}{n:,}"


def setting(value: object) -> str:
    """A value of a configuration: sequences without their brackets, floats without noise.

    Example:
        >>> setting((512, 256)), setting(0.001), setting(None)
        ('512, 256', '0.001', 'none')
    """
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list | tuple):
        return ", ".join(setting(item) for item in value)
    return str(value)
