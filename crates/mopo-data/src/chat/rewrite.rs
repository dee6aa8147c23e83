//! A template's text made safe to run: `{% generation %}` becomes a block that the library knows,
//! statements that could build values without bounds are refused, and what builds lists and dicts
//! passes a check.
//!
//! The library counts steps and bytes, but a list that contains another one twice, twenty times
//! over, costs twenty steps and is a million values to whoever prints or compares it. So each list,
//! dict and tuple that a template writes, each assignment and each parameter of a macro goes
//! through [`CHECK`].

/// The filter that refuses what is too large or too deep.
pub(super) const CHECK: &str = "mopo_bounded";
/// The same for attributes of a namespace, which must not contain namespaces: one could contain
/// itself.
pub(super) const CHECK_ATTRIBUTE: &str = "mopo_bounded_attribute";
/// The filter that refuses to multiply lists.
pub(super) const CHECK_FACTOR: &str = "mopo_factor";

/// Tokens in one tag, and sums among them: the library compiles long chains of operators in
/// quadratic time, and adds lists without counting their items.
const MOST_TOKENS: usize = 1000;
const MOST_SUMS: usize = 100;

const STATEMENTS: &str = "set endset if elif else endif for endfor macro endmacro with endwith \
                          filter endfilter break continue generation endgeneration";
const GENERATION: &str = "generation";
const END_GENERATION: &str = "endgeneration";

/// What stands before an expression, not after one.
const KEYWORDS: [&str; 9] = ["in", "and", "or", "not", "if", "else", "elif", "is", "set"];

/// Why a template is refused, and where.
#[derive(Debug)]
pub(super) struct Refused {
    pub(super) at: usize,
    pub(super) why: String,
}

type Result<T> = std::result::Result<T, Refused>;

fn refuse<T>(at: usize, why: impl Into<String>) -> Result<T> {
    Err(Refused { at, why: why.into() })
}

/// The text to compile. Lines stay where they are.
///
/// # Errors
/// Statements that are not supported, and tags that are not closed or too long.
pub(super) fn rewrite(source: &str) -> Result<String> {
    let mut changes = Changes { source, list: vec![], captures: vec![] };
    let mut at = 0;
    while let Some(found) = source[at..].find('{') {
        let start = at + found;
        at = match source.as_bytes().get(start + 1) {
            Some(b'#') => match source[start + 2..].find("#}") {
                Some(end) => start + 2 + end + 2,
                None => return refuse(start, "a comment is not closed"),
            },
            Some(b'{') => Tag::read(source, start, "}}")?.of_variable(&mut changes),
            Some(b'%') => match raw(source, start)? {
                Some(end) => end,
                None => Tag::read(source, start, "%}")?.of_block(&mut changes)?,
            },
            _ => start + 1,
        };
    }
    Ok(changes.apply())
}

/// The end of a raw block that begins here.
fn raw(source: &str, start: usize) -> Result<Option<usize>> {
    let is_tag = |at: usize, name: &str| {
        let rest = source[at + 2..].trim_start_matches(['-', '+']).trim_start();
        let rest = rest.strip_prefix(name)?.trim_start();
        let rest = rest.strip_prefix(['-', '+']).unwrap_or(rest);
        rest.strip_prefix("%}").map(|rest| source.len() - rest.len())
    };
    let Some(mut at) = is_tag(start, "raw") else { return Ok(None) };
    while let Some(found) = source[at..].find("{%") {
        match is_tag(at + found, "endraw") {
            Some(end) => return Ok(Some(end)),
            None => at += found + 2,
        }
    }
    refuse(start, "a raw block is not closed")
}

/// Texts to insert or to replace, by place.
struct Changes<'a> {
    source: &'a str,
    list: Vec<(usize, usize, String)>,
    /// Names whose text is being captured, between `set` and `endset`.
    captures: Vec<&'a str>,
}

impl Changes<'_> {
    fn insert(&mut self, at: usize, text: impl Into<String>) {
        self.list.push((at, 0, text.into()));
    }

    fn apply(mut self) -> String {
        // Stable: what was inserted first comes first.
        self.list.sort_by_key(|(at, ..)| *at);
        let mut out = String::with_capacity(self.source.len() + 24 * self.list.len());
        let mut done = 0;
        for (at, n_replaced, text) in &self.list {
            out.push_str(&self.source[done..*at]);
            out.push_str(text);
            done = at + n_replaced;
        }
        out.push_str(&self.source[done..]);
        out
    }
}

#[derive(Clone, Copy)]
struct Token<'a> {
    text: &'a str,
    at: usize,
    /// Brackets around it.
    depth: usize,
}

impl Token<'_> {
    fn end(&self) -> usize {
        self.at + self.text.len()
    }

    fn is_name(&self) -> bool {
        self.text.starts_with(|c: char| c.is_alphabetic() || c == '_')
    }

    /// Whether it ends an operand, by its own text.
    fn ends_operand(&self) -> bool {
        let is_literal =
            self.text.starts_with(|c: char| c.is_ascii_digit() || c == '"' || c == '\'');
        is_literal || self.is_name() || matches!(self.text, ")" | "]" | "}")
    }
}

/// `{{ … }}` or `{% … %}`.
struct Tag<'a> {
    tokens: Vec<Token<'a>>,
    /// Where its closing marker begins, with its `-` or `+`, and where it ends.
    close: usize,
    end: usize,
    marker: &'a str,
}

impl<'a> Tag<'a> {
    fn read(source: &'a str, start: usize, close: &str) -> Result<Self> {
        let bytes = source.as_bytes();
        let mut at = start + 2;
        if matches!(bytes.get(at), Some(b'-' | b'+')) {
            at += 1;
        }
        let mut tokens: Vec<Token<'a>> = Vec::new();
        let mut open: Vec<char> = Vec::new();
        let mut n_sums = 0;
        loop {
            let Some(c) = source[at..].chars().next() else {
                return refuse(start, format!("a tag is not closed by `{close}`"));
            };
            if c.is_ascii_whitespace() {
                at += 1;
                continue;
            }
            if open.is_empty() {
                let signed = usize::from(c == '-' || c == '+');
                if source[at + signed..].starts_with(close) {
                    let end = at + signed + close.len();
                    return Ok(Self { tokens, close: at, end, marker: &source[at..end] });
                }
            }
            let rest = &source[at..];
            let n = match c {
                '"' | '\'' => match string_length(rest, c) {
                    Some(n) => n,
                    None => return refuse(at, "a string is not closed"),
                },
                c if c.is_alphanumeric() || c == '_' => {
                    rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len())
                }
                _ if ["**", "//", "==", "!=", "<=", ">="].iter().any(|op| rest.starts_with(op)) => {
                    2
                }
                c => c.len_utf8(),
            };
            match (c, if matches!(c, ')' | ']' | '}') { open.pop() } else { None }) {
                (')', Some('(')) | (']', Some('[')) | ('}', Some('{')) => {}
                (_, Some(other)) => return refuse(at, format!("`{c}` does not close `{other}`")),
                (')' | ']' | '}', None) => return refuse(at, format!("`{c}` closes nothing")),
                _ => {}
            }
            tokens.push(Token { text: &rest[..n], at, depth: open.len() });
            if matches!(c, '(' | '[' | '{') {
                open.push(c);
            }
            if tokens.len() > MOST_TOKENS {
                return refuse(start, format!("a tag has more than {MOST_TOKENS} words and signs"));
            }
            n_sums += usize::from(matches!(c, '+' | '~'));
            if n_sums > MOST_SUMS {
                return refuse(start, format!("a tag has more than {MOST_SUMS} `+` and `~`"));
            }
            at += n;
        }
    }

    fn of_variable(&self, changes: &mut Changes<'_>) -> usize {
        self.check_literals(changes, 0);
        self.check_products(changes);
        self.end
    }

    fn of_block(&self, changes: &mut Changes<'a>) -> Result<usize> {
        let Some(name) = self.tokens.first() else {
            return refuse(self.close, "a statement is empty");
        };
        if !STATEMENTS.split(' ').any(|statement| statement == name.text) {
            return refuse(name.at, format!("the statement `{}` is not supported", name.text));
        }
        let top = |text| move |token: &Token<'_>| token.depth == 0 && token.text == text;
        let mut n_targets = 0;
        match name.text {
            GENERATION => changes.list.push((name.at, name.text.len(), "with".into())),
            END_GENERATION => changes.list.push((name.at, name.text.len(), "endwith".into())),
            "for" => {
                n_targets = self.tokens.iter().position(top("in")).unwrap_or(0);
                if let [.., before, last] = self.tokens.as_slice()
                    && last.text == "recursive"
                    && before.ends_operand()
                    && before.text != "in"
                {
                    return refuse(last.at, "recursive loops are not supported");
                }
            }
            "set" => n_targets = self.tokens.iter().position(top("=")).unwrap_or(0),
            _ => {}
        }
        self.check_literals(changes, n_targets);
        self.check_products(changes);
        match name.text {
            // Without a value it is a syntax error, which brackets would hide.
            "set" if n_targets + 1 == self.tokens.len() => {}
            "set" if n_targets > 0 => {
                let is_attribute = self.tokens[..n_targets].iter().any(|token| token.text == ".");
                let check = if is_attribute { CHECK_ATTRIBUTE } else { CHECK };
                changes.insert(self.tokens[n_targets].end(), "(");
                changes.insert(self.close, format!(")|{check} "));
            }
            "set" => {
                let filter = self.tokens.iter().find(|token| top("|")(token));
                let end = filter.map_or(self.close, |token| token.at);
                changes.captures.push(changes.source[name.end()..end].trim());
            }
            "endset" => {
                if let Some(name) = changes.captures.pop() {
                    self.check_after(changes, name);
                }
            }
            "with" => {
                for (i, token) in
                    self.tokens.iter().enumerate().filter(|(_, token)| top("=")(token))
                {
                    changes.insert(token.end(), "(");
                    let end = self.tokens[i..].iter().find(|token| top(",")(token));
                    changes.insert(end.map_or(self.close, |token| token.at), format!(")|{CHECK} "));
                }
            }
            "macro" => {
                let pairs = self.tokens.windows(2);
                let parameters = pairs
                    .filter(|pair| {
                        matches!(pair[0].text, "(" | ",") && pair[1].depth == 1 && pair[1].is_name()
                    })
                    .map(|pair| pair[1].text);
                let parameters = parameters.collect::<Vec<_>>().join(", ");
                self.check_after(changes, &format!("[{parameters}]"));
            }
            _ => {}
        }
        Ok(self.end)
    }

    /// Checks a value behind the tag, which keeps the white space that it removes.
    fn check_after(&self, changes: &mut Changes<'_>, value: &str) {
        changes.insert(self.end, format!("{{% if {value}|{CHECK} %}}{{% endif {}", self.marker));
    }

    /// Whether what follows token `i` begins an operand.
    fn is_before_operand(&self, i: usize) -> bool {
        let Some(before) = i.checked_sub(1).map(|before| self.tokens[before]) else { return true };
        let is_attribute = i >= 2 && self.tokens[i - 2].text == ".";
        !before.ends_operand() || KEYWORDS.contains(&before.text) && !is_attribute
    }

    /// Lists, dicts and tuples that are written here.
    fn check_literals(&self, changes: &mut Changes<'_>, n_targets: usize) {
        let mut open: Vec<usize> = Vec::new();
        for (i, token) in self.tokens.iter().enumerate() {
            match token.text {
                "(" | "[" | "{" => open.push(i),
                ")" | "]" | "}" => {
                    let Some(first) = open.pop() else { continue };
                    let begin = self.tokens[first];
                    let inside = &self.tokens[first + 1..i];
                    let is_tuple =
                        || inside.iter().any(|t| t.text == "," && t.depth == begin.depth + 1);
                    let is_target = i < n_targets
                        || self.tokens.get(i + 1).is_some_and(|after| after.text == "=");
                    let is_literal = begin.text == "{" || self.is_before_operand(first);
                    if is_literal && !is_target && (begin.text != "(" || is_tuple()) {
                        changes.insert(begin.at, "(");
                        changes.insert(token.end(), format!("|{CHECK})"));
                    }
                }
                _ => {}
            }
        }
    }

    /// Both factors of each product.
    fn check_products(&self, changes: &mut Changes<'_>) {
        for (i, token) in self.tokens.iter().enumerate().filter(|(_, token)| token.text == "*") {
            // Otherwise it unpacks arguments.
            if i == 0 || self.is_before_operand(i) {
                continue;
            }
            changes.insert(token.at, format!("|{CHECK_FACTOR} "));
            let mut end = i + 1;
            while self.tokens.get(end).is_some_and(|token| matches!(token.text, "-" | "+" | "not"))
            {
                end += 1;
            }
            // The operand, then its attributes, items and calls.
            while let Some(operand) = self.tokens.get(end) {
                if matches!(operand.text, "(" | "[" | "{") {
                    let rest = self.tokens[end + 1..].iter();
                    end += 1 + rest.take_while(|token| token.depth > operand.depth).count();
                }
                match self.tokens.get(end + 1).map(|token| token.text) {
                    Some("." | "|") => end += 2,
                    Some("(" | "[") => end += 1,
                    _ => break,
                }
            }
            if let Some(last) = self.tokens.get(end) {
                changes.insert(last.end(), format!("|{CHECK_FACTOR} "));
            }
        }
    }
}

/// The length of a string literal with its quotes.
fn string_length(text: &str, quote: char) -> Option<usize> {
    let mut is_escaped = false;
    for (i, c) in text.char_indices().skip(1) {
        match c {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            c if c == quote => return Some(i + 1),
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn short(source: &str) -> String {
        let text = rewrite(source).unwrap();
        text.replace(CHECK_ATTRIBUTE, "A").replace(CHECK, "C").replace(CHECK_FACTOR, "F")
    }

    #[test]
    fn what_builds_values_is_checked() {
        for (source, expected) in [
            ("{{ [a, b][0] }}", "{{ ([a, b]|C)[0] }}"),
            ("{{ f(a, b)[0, 1] }}{{ (a) }}", "{{ f(a, b)[0, 1] }}{{ (a) }}"),
            ("{{ x in (a, [b]) }}", "{{ x in ((a, ([b]|C))|C) }}"),
            ("{{ m.in[0] }}{{ {'a': 1}.a }}", "{{ m.in[0] }}{{ ({'a': 1}|C).a }}"),
            ("{% for (a, b) in x %}", "{% for (a, b) in x %}"),
            ("{%- set n.x = a == b -%}", "{%- set n.x =( a == b )|A -%}"),
            ("{% set x = [a] %}", "{% set x =( ([a]|C) )|C %}"),
            ("{% with a = 1, b = 2 %}", "{% with a =( 1)|C , b =( 2 )|C %}"),
            (
                "{% macro f(a, b=g(c, d)) -%}x",
                "{% macro f(a, b=g(c, d)) -%}{% if [a, b]|C %}{% endif -%}x",
            ),
            ("{% set x %}a{% endset -%}b", "{% set x %}a{% endset -%}{% if x|C %}{% endif -%}b"),
            (
                "{% set n.x | trim %}{%endset%}",
                "{% set n.x | trim %}{%endset%}{% if n.x|C %}{% endif %}",
            ),
            ("{{ a.b * c.d[0](1) + e }}", "{{ a.b |F * c.d[0](1)|F  + e }}"),
            ("{{ f(*a) ** 2 }}", "{{ f(*a) ** 2 }}"),
            ("{% generation %}x{%- endgeneration -%}", "{% with %}x{%- endwith -%}"),
        ] {
            assert_eq!(short(source), expected);
        }
    }

    #[test]
    fn texts_comments_and_raw_blocks_stay_as_they_are() {
        for source in [
            "[a] { } {# {% call %} #}",
            "{% raw %}{% generation %}{{ [a] }}{% endraw %}",
            "{%- raw -%}{{ {%- endraw +%}",
            "{{ '[a] }} {% nothing %} \\' [b]' }}",
        ] {
            assert_eq!(rewrite(source).unwrap(), source);
        }
    }

    #[test]
    fn what_is_not_supported_is_refused() {
        for (source, expected) in [
            ("{% include 'x' %}", "`include`"),
            ("{% call(x) f() %}", "`call`"),
            ("{% for x in y recursive %}", "recursive"),
            ("{{ 'a }}", "string is not closed"),
            ("{{ (a }}", "does not close `(`"),
            ("{{ a ", "tag is not closed"),
            ("{{ a) }}", "closes nothing"),
            ("{# a", "comment is not closed"),
            ("{% raw %} a", "raw block is not closed"),
            ("{% %}", "empty"),
        ] {
            let refused = rewrite(source).unwrap_err();
            assert!(refused.why.contains(expected), "{}", refused.why);
        }
        for more in [" + a".repeat(MOST_SUMS + 1), "|a".repeat(MOST_TOKENS)] {
            let refused = rewrite(&format!("{{{{ a{more} }}}}")).unwrap_err();
            assert!(refused.why.contains("more than"), "{}", refused.why);
        }
    }
}
