//! Text in HTML, and numbers in text.

/// `text` with the characters that HTML gives a meaning spelled out.
pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            c if c.is_control() => escaped.push('\u{fffd}'),
            c => escaped.push(c),
        }
    }
    escaped
}

/// Milliseconds as a person reads them: `8.3 ms`, `140 ms`, `2.31 s`.
pub(super) fn time(ms: f64) -> String {
    match ms {
        ..10.0 => format!("{ms:.1} ms"),
        ..1000.0 => format!("{ms:.0} ms"),
        _ => format!("{:.2} s", ms / 1000.0),
    }
}

/// The shortest name of a blob that still tells it from others.
pub(super) fn short(name: &str) -> String {
    let mut short: String = name.chars().take(19).collect();
    if short.len() < name.len() {
        short.push('…');
    }
    escape(&short)
}

/// A float of a byte count, for drawing.
#[expect(clippy::cast_precision_loss, reason = "a drawing has fewer pixels than a float has digits")]
pub(super) fn float(bytes: u64) -> f64 {
    bytes as f64
}

/// A step for axis ticks: 1, 2 or 5 times a power of ten, so that `span` has at most `ticks` of them.
pub(super) fn tick_step(span: f64, ticks: f64) -> f64 {
    let raw = (span / ticks).max(f64::MIN_POSITIVE);
    let power = 10f64.powf(raw.log10().floor());
    [1.0, 2.0, 5.0, 10.0]
        .into_iter()
        .map(|factor| factor * power)
        .find(|step| *step >= raw * 0.999)
        .unwrap_or(raw)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_cannot_become_markup() {
        assert_eq!(escape("<a href=\"x\">&'\u{7}"), "&lt;a href=&quot;x&quot;&gt;&amp;&#39;\u{fffd}");
    }

    #[test]
    fn ticks_are_round() {
        for (span, step) in [(10.0, 2.0), (1000.0, 200.0), (0.7, 0.2), (5.0, 1.0), (2.3, 0.5)] {
            let found = tick_step(span, 5.0);
            assert!((found - step).abs() < 1e-9, "{span}: {found}");
        }
    }
}
