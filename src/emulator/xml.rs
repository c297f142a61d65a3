//! A writer for the API's answers, quirks included.

use std::fmt::Write as _;

/// XML under construction. Elements are written without white space between them, as the real API does.
#[derive(Debug, Default)]
pub(super) struct Xml {
    text: String,
}

impl Xml {
    /// `<name>text</name>`; an empty text alternates between `<name/>` and `<name></name>`, as both are seen.
    pub(super) fn leaf(&mut self, name: &str, text: &str) -> &mut Self {
        if text.is_empty() && name.len().is_multiple_of(2) {
            let _ = write!(self.text, "<{name}/>");
        } else {
            let _ = write!(self.text, "<{name}>");
            escape(text, &mut self.text);
            let _ = write!(self.text, "</{name}>");
        }
        self
    }

    /// An element with children.
    pub(super) fn node(&mut self, name: &str, children: impl FnOnce(&mut Self)) -> &mut Self {
        let _ = write!(self.text, "<{name}>");
        children(self);
        let _ = write!(self.text, "</{name}>");
        self
    }

    /// A list of `item`s.
    pub(super) fn list<T>(
        &mut self,
        name: &str,
        items: impl IntoIterator<Item = T>,
        mut item: impl FnMut(&mut Self, T),
    ) -> &mut Self {
        self.node(name, |xml| {
            for value in items {
                xml.node("item", |xml| item(xml, value));
            }
        })
    }

    /// The finished answer of an action.
    pub(super) fn answer(self, action: &str, request_id: &str) -> String {
        format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\" standalone=\"yes\"?>\
             <{action}Response xmlns=\"https://computing.api.nifcloud.com/api/\">\
             <requestId>{request_id}</requestId>{}</{action}Response>",
            self.text
        )
    }
}

/// The body of an error.
pub(super) fn error(code: &str, message: &str, request_id: &str) -> String {
    let mut text = String::from("<Response><Errors><Error><Code>");
    escape(code, &mut text);
    text.push_str("</Code><Message>");
    escape(message, &mut text);
    let _ = write!(
        text,
        "</Message></Error></Errors><RequestID>{request_id}</RequestID></Response>"
    );
    text
}

fn escape(text: &str, out: &mut String) {
    for c in text.chars() {
        match c {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '"' => out.push_str("&quot;"),
            c => out.push(c),
        }
    }
}
