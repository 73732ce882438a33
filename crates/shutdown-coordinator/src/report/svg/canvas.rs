//! Drawing in SVG. Lengths are whole hundredths of a pixel, so that no float decides what a picture looks like.

use std::fmt::{self, Write as _};

use crate::report::text::{char_width, clean, shorten};

/// So many pixels, as a length.
pub(super) const fn px(pixels: i64) -> i64 {
    pixels * 100
}

/// A length as SVG writes it.
struct Px(i64);

impl fmt::Display for Px {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, part) = (self.0 / 100, self.0 % 100);
        match part {
            0 => write!(f, "{whole}"),
            _ if part % 10 == 0 => write!(f, "{whole}.{}", part / 10),
            _ => write!(f, "{whole}.{part:02}"),
        }
    }
}

#[derive(Clone, Copy)]
pub(super) enum Anchor {
    Start,
    Middle,
    End,
}

/// The elements of a picture, in the order in which they cover each other. Nothing is drawn at negative places.
#[derive(Default)]
pub(super) struct Canvas {
    out: String,
}

impl Canvas {
    pub(super) fn rect(&mut self, class: &str, (x, y): (i64, i64), (width, height): (i64, i64)) {
        let [x, y, width, height] = [x, y, width, height].map(Px);
        self.push(format_args!(r#"<rect class="{class}" x="{x}" y="{y}" width="{width}" height="{height}" rx="2"/>"#));
    }

    pub(super) fn line(&mut self, class: &str, from: (i64, i64), to: (i64, i64)) {
        let [x1, y1, x2, y2] = [from.0, from.1, to.0, to.1].map(Px);
        self.push(format_args!(r#"<line class="{class}" x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}"/>"#));
    }

    pub(super) fn circle(&mut self, class: &str, (x, y): (i64, i64), radius: i64) {
        let [x, y, radius] = [x, y, radius].map(Px);
        self.push(format_args!(r#"<circle class="{class}" cx="{x}" cy="{y}" r="{radius}"/>"#));
    }

    pub(super) fn polygon(&mut self, class: &str, points: &[(i64, i64)]) {
        self.points("polygon", class, points);
    }

    pub(super) fn polyline(&mut self, class: &str, points: &[(i64, i64)]) {
        self.points("polyline", class, points);
    }

    fn points(&mut self, element: &str, class: &str, points: &[(i64, i64)]) {
        let points: Vec<_> = points.iter().map(|&(x, y)| format!("{},{}", Px(x), Px(y))).collect();
        self.push(format_args!(r#"<{element} class="{class}" points="{}"/>"#, points.join(" ")));
    }

    pub(super) fn text(&mut self, class: &str, (x, y): (i64, i64), anchor: Anchor, text: &str) {
        self.text_and(class, (x, y), anchor, text, "");
    }

    /// With a second text after it, in a smaller and paler hand.
    pub(super) fn text_and(&mut self, class: &str, (x, y): (i64, i64), anchor: Anchor, text: &str, more: &str) {
        let anchor = match anchor {
            Anchor::Start => "",
            Anchor::Middle => r#" text-anchor="middle""#,
            Anchor::End => r#" text-anchor="end""#,
        };
        let more = if more.is_empty() {
            String::new()
        } else {
            format!(r#"<tspan class="sc-more" dx="6">{}</tspan>"#, escape(more))
        };
        let (x, y, text) = (Px(x), Px(y), escape(text));
        self.push(format_args!(r#"<text class="{class}" x="{x}" y="{y}"{anchor}>{text}{more}</text>"#));
    }

    /// What is drawn until [`Canvas::end`] belongs together; `title` is shown where a pointer rests on it.
    pub(super) fn begin(&mut self, title: &str) {
        self.push(format_args!("<g><title>{}</title>", escape(title)));
    }

    pub(super) fn end(&mut self) {
        self.push(format_args!("</g>"));
    }

    /// The whole document.
    pub(super) fn document(self, (width, height): (i64, i64), title: &str, description: &str) -> String {
        let [w, h] = [width, height].map(Px);
        format!(
            concat!(
                r#"<svg class="sc" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {w} {h}" width="{w}" height="{h}" role="img">"#,
                "\n<title>{title}</title>\n<desc>{description}</desc>\n<style>\n{style}</style>\n{defs}\n",
                r#"<rect class="sc-bg" x="0" y="0" width="{w}" height="{h}" rx="6"/>"#,
                "\n{body}</svg>\n"
            ),
            w = w,
            h = h,
            title = escape(title),
            description = escape(description),
            style = include_str!("style.css"),
            defs = include_str!("defs.xml").trim_end(),
            body = self.out,
        )
    }

    fn push(&mut self, element: fmt::Arguments<'_>) {
        // Writing to a string cannot fail.
        writeln!(self.out, "{element}").ok();
    }
}

/// As character data or the value of an attribute.
fn escape(text: &str) -> String {
    clean(text).replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// About how wide a character is, in hundredths of the size of the font; rather too wide than too narrow, since the
/// viewer chooses the font.
fn advance(c: char) -> usize {
    match c {
        'i' | 'j' | 'l' | 't' | 'f' | 'r' | 'I' | ' ' | '.' | ',' | ':' | ';' | '\'' | '|' | '!' | '(' | ')' | '-' => {
            40
        }
        'm' | 'w' | 'M' | 'W' | '@' | '%' | '…' | '—' => 98,
        c if c.is_uppercase() => 74,
        c => match char_width(c) {
            0 => 0,
            1 => 63,
            _ => 102,
        },
    }
}

/// About how wide the text is at this size of font, in pixels.
pub(super) fn text_width(text: &str, font: i64) -> i64 {
    let hundredths: usize = clean(text).chars().map(advance).sum();
    i64::try_from(hundredths).unwrap_or(i64::MAX).saturating_mul(font)
}

/// The text within this length at this size of font.
pub(super) fn fit(text: &str, font: i64, length: i64) -> String {
    let limit = usize::try_from(length / font.max(1)).unwrap_or(0);
    shorten(&clean(text), limit, advance)
}
