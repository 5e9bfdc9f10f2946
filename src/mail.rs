//! Outgoing mail: handed to an SMTP server (`SMTP_URL`), or noted in the log and sent by nobody.
//!
//! A template is text with `{{name}}` in it. What stands for a name is put in as it is in text, escaped in HTML, and on one line in
//! a subject, so that the name of an organization cannot become markup or a header.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use lettre::message::{Mailbox, MultiPart, SinglePart};
use lettre::transport::smtp::AsyncSmtpTransportBuilder;
use lettre::{Address, AsyncSmtpTransport, AsyncTransport as _, Message, Tokio1Executor};

/// How long the server may take for one step of the conversation.
const PATIENCE: Duration = Duration::from_secs(20);
/// Characters kept of what a server answered.
const ANSWER_CHARS: usize = 500;

/// An SMTP server, and who the mail is from.
#[derive(Clone)]
pub struct Smtp {
    builder: AsyncSmtpTransportBuilder,
    from: Mailbox,
}

// The builder holds the password.
impl fmt::Debug for Smtp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Smtp").field("from", &self.from.to_string()).finish_non_exhaustive()
    }
}

impl Smtp {
    /// Reads `SMTP_URL` and `MAIL_FROM`.
    ///
    /// # Errors
    /// What is wrong, without repeating the address: it holds a password.
    pub fn parse(url: &str, from: Option<&str>, production: bool) -> Result<Self, String> {
        let Some(from) = from else {
            return Err("MAIL_FROM is missing: who the mail is from, \"Acme <support@acme.example>\"".to_owned());
        };
        let from = from
            .parse()
            .map_err(|_| format!("MAIL_FROM is \"{from}\"; it takes an address, or \"Acme <support@acme.example>\""))?;
        let wanted =
            "SMTP_URL is not an address like smtps://user:password@host or smtp://user:password@host:587?tls=required";
        let (scheme, rest) = url.split_once("://").ok_or(wanted)?;
        let authority = rest.split(['/', '?']).next().unwrap_or_default();
        let host = authority.rsplit('@').next().unwrap_or_default();
        let is_near = host.starts_with("localhost") || host.starts_with("127.") || host.starts_with("[::1]");
        if production && scheme == "smtp" && !url.contains("tls=required") && !is_near {
            return Err("SMTP_URL does not encrypt, and mail has the secrets of invitations: use smtps://, or add ?tls=required"
                .to_owned());
        }
        let builder = AsyncSmtpTransport::<Tokio1Executor>::from_url(url).map_err(|_| wanted.to_owned())?;
        Ok(Self { builder: builder.timeout(Some(PATIENCE)), from })
    }
}

/// Sends mail.
pub enum Mailer {
    /// Nobody sends it; the log has that there was some.
    Log,
    /// A server does.
    Smtp {
        /// Keeps its connections.
        transport: AsyncSmtpTransport<Tokio1Executor>,
        /// Who the mail is from.
        from: Mailbox,
    },
}

impl Mailer {
    /// A mailer for the configured server; without one, the log. Needs a running tokio for the former.
    #[must_use]
    pub fn new(smtp: Option<&Smtp>) -> Self {
        match smtp {
            None => Self::Log,
            Some(smtp) => Self::Smtp { transport: smtp.builder.clone().build(), from: smtp.from.clone() },
        }
    }
}

/// Why a mail was not sent.
#[derive(Debug, PartialEq, Eq)]
pub struct MailError {
    /// What the server said, or why it was not asked.
    pub problem: String,
    /// Whether it is in vain to try again.
    pub is_final: bool,
}

/// A mail without a recipient.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mail {
    pub subject: String,
    pub text: String,
    pub html: Option<String>,
}

impl Mail {
    fn to(self, from: &Mailbox, to: &str) -> Result<Message, String> {
        let to: Address = to.parse().map_err(|_| "this is no address that mail can be sent to".to_owned())?;
        // A subject is one line, whatever the name of an organization holds.
        let subject = self.subject.split(char::is_control).collect::<Vec<_>>().join(" ");
        let message = Message::builder()
            .from(from.clone())
            .to(Mailbox::new(None, to))
            .subject(subject)
            // RFC 5322, 3.6.4: every message should have one, and filters ask for it.
            .message_id(None);
        let text = SinglePart::plain(self.text);
        let built = match self.html {
            None => message.singlepart(text),
            Some(html) => {
                message.multipart(MultiPart::alternative().singlepart(text).singlepart(SinglePart::html(html)))
            }
        };
        built.map_err(|error| error.to_string())
    }
}

/// Hands a mail to the server.
///
/// # Errors
/// It was not taken. 5yz answers (RFC 5321, 4.2.1) are final unless they are about this server's own account (RFC 4954, 6).
pub async fn send(
    transport: &AsyncSmtpTransport<Tokio1Executor>,
    from: &Mailbox,
    to: &str,
    mail: Mail,
) -> Result<(), MailError> {
    let message = mail.to(from, to).map_err(|problem| MailError { problem, is_final: true })?;
    match transport.send(message).await {
        Ok(_) => Ok(()),
        Err(error) => {
            let code = error.status().map(|code| code.to_string()).unwrap_or_default();
            let is_own_fault = ["530", "534", "535", "538"].contains(&code.as_str());
            let mut problem = error.to_string();
            let mut cause = std::error::Error::source(&error);
            while let Some(next) = cause {
                // Some errors tell their causes themselves.
                if !problem.contains(&next.to_string()) {
                    problem += &format!(": {next}");
                }
                cause = next.source();
            }
            let problem = problem.chars().filter(|c| !c.is_control()).take(ANSWER_CHARS).collect();
            Err(MailError { problem, is_final: error.is_permanent() && !is_own_fault })
        }
    }
}

/// What a kind of mail says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    subject: String,
    text: String,
    html: Option<String>,
}

/// The names in a text: `{{name}}`.
fn names(text: &str) -> impl Iterator<Item = &str> {
    text.split("{{").skip(1).map(|rest| rest.split_once("}}").map_or(rest, |(name, _)| name.trim()))
}

/// What makes text run the other way (Unicode Standard Annex 9, 2): a name could make a mail read as another.
fn is_direction(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn fill(text: &str, value: impl Fn(&str) -> String) -> String {
    let mut parts = text.split("{{");
    let mut filled = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (name, rest) = part.split_once("}}").unwrap_or((part, ""));
        filled += &value(name.trim());
        filled += rest;
    }
    filled
}

fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            other => escaped.push(other),
        }
    }
    escaped
}

impl Template {
    /// Reads a template: the first line of the text is `Subject: …`, the second is empty.
    ///
    /// # Errors
    /// It has no subject, a name that is not one of `known`, or lacks `needed`.
    pub fn parse(text: &str, html: Option<&str>, known: &[&str], needed: &str) -> Result<Self, String> {
        let normal = text.replace("\r\n", "\n");
        let (subject, text) = normal
            .strip_prefix("Subject:")
            .and_then(|rest| rest.split_once('\n'))
            .ok_or("its text does not begin with a line \"Subject: …\"")?;
        for part in [subject, text].into_iter().chain(html) {
            if let Some(unknown) = names(part).find(|name| !known.contains(name)) {
                return Err(format!("it has {{{{{unknown}}}}}; known are {}", known.join(", ")));
            }
        }
        for part in [Some(text), html].into_iter().flatten() {
            if !names(part).any(|name| name == needed) {
                return Err(format!("it lacks {{{{{needed}}}}}"));
            }
        }
        Ok(Self {
            subject: subject.trim().to_owned(),
            text: text.trim_start().to_owned(),
            html: html.map(str::to_owned),
        })
    }

    /// Reads `name.txt` and `name.html` from a folder; `None` when it has no `name.txt`. Without the latter, mail has text only.
    ///
    /// # Errors
    /// A file cannot be read, or is no template.
    pub fn load(folder: &Path, name: &str, known: &[&str], needed: &str) -> Result<Option<Self>, String> {
        let read = |ending: &str| {
            let file = folder.join(format!("{name}.{ending}"));
            match std::fs::read_to_string(&file) {
                Ok(text) => Ok(Some(text)),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
                Err(error) => Err(format!("{}: {error}", file.display())),
            }
        };
        let (text, html) = (read("txt")?, read("html")?);
        match text {
            None if html.is_some() => Err(format!("{name}.html stands alone: write {name}.txt, too")),
            None => Ok(None),
            Some(text) => Self::parse(&text, html.as_deref(), known, needed)
                .map(Some)
                .map_err(|problem| format!("{name}: {problem}")),
        }
    }

    /// Puts the values in the places of their names.
    #[must_use]
    pub fn fill(&self, values: &[(&str, &str)]) -> Mail {
        let value = |name: &str| {
            let value = values.iter().find(|(known, _)| *known == name).map_or("", |(_, value)| *value);
            value.replace(is_direction, "")
        };
        Mail {
            subject: fill(&self.subject, value),
            text: fill(&self.text, value),
            html: self.html.as_ref().map(|html| fill(html, |name| escape(&value(name)))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: &[&str] = &["organization", "link"];

    #[test]
    fn values_cannot_become_markup_headers_or_placeholders() {
        let template = Template::parse(
            "Subject: {{organization}} invites you\r\n\r\nGo to {{ link }}\n",
            Some("<a href=\"{{link}}\">{{organization}}</a>"),
            KNOWN,
            "link",
        )
        .expect("a template");
        let name = "A\u{202e}\r\nBcc: all@example.com <b>\"{{link}}\"";
        let mail = template.fill(&[("organization", name), ("link", "https://app.example/?a=1&b=2")]);
        assert_eq!(mail.text, "Go to https://app.example/?a=1&b=2\n");
        assert_eq!(
            mail.html.as_deref(),
            Some(
                "<a href=\"https://app.example/?a=1&amp;b=2\">A\r\nBcc: all@example.com &lt;b&gt;&quot;{{link}}&quot;</a>"
            )
        );
        let from: Mailbox = "Acme <support@acme.example>".parse().expect("an address");
        let message = mail.to(&from, "dora@example.com").expect("a message");
        assert!(message.headers().get_raw("Bcc").is_none() && message.headers().get_raw("Message-ID").is_some());
        assert_eq!(message.envelope().to().len(), 1);
        let text = String::from_utf8(message.formatted()).expect("text");
        let headers = text.split("\r\n\r\n").next().unwrap_or_default();
        assert!(!headers.lines().any(|line| line.starts_with("Bcc")), "{headers}");
    }

    #[test]
    fn templates_that_cannot_work_are_refused() {
        for (text, html, problem) in [
            ("Hello {{link}}", None, "Subject"),
            ("Subject: a\n\n{{lnik}}", None, "{{lnik}}"),
            ("Subject: a\n\nHello", None, "lacks {{link}}"),
            ("Subject: a\n\n{{link}}", Some("<p>"), "lacks {{link}}"),
            ("Subject: {{link is\n\n{{link}}", None, "known are"),
        ] {
            let refused = Template::parse(text, html, KNOWN, "link").expect_err(text);
            assert!(refused.contains(problem), "{refused}");
        }
    }

    #[test]
    fn servers_without_encryption_are_not_for_production() {
        let parse = |url: &str| Smtp::parse(url, Some("a@example.com"), true).map(drop);
        for good in
            ["smtps://u:p@mail.example.com", "smtp://u:p@mail.example.com:587?tls=required", "smtp://localhost:25"]
        {
            assert_eq!(parse(good), Ok(()), "{good}");
        }
        for bad in
            ["smtp://u:hunter2@mail.example.com", "https://hunter2", "hunter2", "smtp://hunter2@x:y:z?tls=perhaps"]
        {
            let problem = parse(bad).expect_err(bad);
            assert!(problem.contains("SMTP_URL") && !problem.contains("hunter2"), "{problem}");
        }
        assert!(Smtp::parse("smtp://localhost", None, false).expect_err("no sender").contains("MAIL_FROM"));
        let smtp = Smtp::parse("smtps://user:hunter2@mail.example.com", Some("a@example.com"), true).expect("a server");
        assert!(!format!("{smtp:?}").contains("hunter2"));
    }
}
