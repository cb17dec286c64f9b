//! QR codes of links, for terminals and for the local page.

use qrcode::{Color, EcLevel, QrCode, render::unicode::Dense1x2};

/// Modules of light around a code: a reader needs four (ISO/IEC 18004).
const QUIET: usize = 4;

fn code(text: &str) -> Option<QrCode> {
    QrCode::with_error_correction_level(text, EcLevel::M).ok()
}

/// The code in half blocks, light modules drawn, so that it reads on dark and on light terminals that have
/// the usual two colours. `None` when the text is too long for any.
pub fn blocks(text: &str) -> Option<String> {
    let code = code(text)?;
    Some(code.render::<Dense1x2>().dark_color(Dense1x2::Light).light_color(Dense1x2::Dark).build())
}

/// The code as rows of `0` and `1` (dark), the quiet zone among them.
pub fn rows(text: &str) -> Option<Vec<String>> {
    let code = code(text)?;
    let width = code.width();
    let colors = code.to_colors();
    let empty = "0".repeat(width + 2 * QUIET);
    let side = "0".repeat(QUIET);
    let mut rows = vec![empty.clone(); QUIET];
    rows.extend(colors.chunks(width).map(|row| {
        let row: String = row.iter().map(|color| if *color == Color::Dark { '1' } else { '0' }).collect();
        format!("{side}{row}{side}")
    }));
    rows.extend(vec![empty; QUIET]);
    Some(rows)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_square_and_have_their_quiet_zone_and_finders() {
        let rows = rows("https://relay.example/#/pair/00000000-0000-4000-8000-000000000000").unwrap();
        assert!(rows.iter().all(|row| row.len() == rows.len()));
        assert!(rows[..QUIET].iter().all(|row| !row.contains('1')));
        assert!(rows[QUIET].starts_with("000011111110") && rows[QUIET].ends_with("011111110000"));
        assert!(rows[QUIET + 1].starts_with("000010000010"));
        let blocks = blocks("https://relay.example").unwrap();
        let mut lines = blocks.lines();
        let first = lines.next().unwrap();
        assert!(first.chars().all(|c| c == '█'), "the quiet zone is light: {first}");
        assert!(lines.all(|line| line.chars().count() == first.chars().count()));
        assert_eq!(super::rows(&"x".repeat(10_000)), None);
    }
}
