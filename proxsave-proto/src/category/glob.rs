//! Shell patterns on bytes of one path component: `*`, `?`, `[a-z]`, `[!a]` and `\x`.

/// Whether `name` as a whole matches `pattern`. A malformed class (no `]`) matches its text literally. Runs in
/// time proportional to the product of both lengths at worst; never recurses.
#[must_use]
pub fn matches(pattern: &[u8], name: &[u8]) -> bool {
    let (mut p, mut n) = (pattern, name);
    let mut retry: Option<(&[u8], &[u8])> = None;
    loop {
        if let Some((b'*', rest)) = p.split_first() {
            retry = Some((rest, n));
            p = rest;
            continue;
        }
        match (step(p, n), n.is_empty() && p.is_empty()) {
            (_, true) => return true,
            (Some((rest_p, rest_n)), _) => (p, n) = (rest_p, rest_n),
            (None, _) => match retry {
                Some((after_star, from)) => match from.split_first() {
                    Some((_, shorter)) => {
                        retry = Some((after_star, shorter));
                        (p, n) = (after_star, shorter);
                    }
                    None => return false,
                },
                None => return false,
            },
        }
    }
}

/// Matches one unit of the pattern against one byte; gives what is left of both.
fn step<'p, 'n>(pattern: &'p [u8], name: &'n [u8]) -> Option<(&'p [u8], &'n [u8])> {
    let (unit, after) = pattern.split_first()?;
    let (byte, rest) = name.split_first()?;
    match unit {
        b'?' => Some((after, rest)),
        b'[' => match class(after, *byte) {
            Some((true, after_class)) => Some((after_class, rest)),
            Some((false, _)) => None,
            None => (*byte == b'[').then_some((after, rest)),
        },
        b'\\' => match after.split_first() {
            Some((literal, after)) => (literal == byte).then_some((after, rest)),
            None => (*byte == b'\\').then_some((after, rest)),
        },
        literal => (literal == byte).then_some((after, rest)),
    }
}

/// Reads a class behind its `[`: whether `byte` is in it, and the pattern behind its `]`.
fn class(pattern: &[u8], byte: u8) -> Option<(bool, &[u8])> {
    let (negated, mut rest) = match pattern.split_first()? {
        (b'!' | b'^', rest) => (true, rest),
        _ => (false, pattern),
    };
    let (mut found, mut first) = (false, true);
    loop {
        let (low, after) = rest.split_first()?;
        if *low == b']' && !first {
            return Some((found != negated, after));
        }
        first = false;
        rest = after;
        if let [b'-', high, after @ ..] = after
            && *high != b']'
        {
            found |= (*low..=*high).contains(&byte);
            rest = after;
        } else {
            found |= *low == byte;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn patterns_match_like_a_shell() {
        for (pattern, name, want) in [
            ("*", "", true),
            ("a*c", "abbc", true),
            ("a*c", "abcd", false),
            ("?", "", false),
            ("??", "ab", true),
            ("[a-c]x", "bx", true),
            ("[!a-c]x", "bx", false),
            ("[]a]", "]", true),
            ("[ab", "[ab", true),
            ("*a*b*", "xxaYYbzz", true),
            ("\\*", "*", true),
            ("\\*", "x", false),
            ("auto.*", "auto.", true),
        ] {
            assert_eq!(matches(pattern.as_bytes(), name.as_bytes()), want, "{pattern} {name}");
        }
    }

    proptest! {
        #[test]
        fn any_pattern_ends_without_panic(pattern in "[*?\\[\\]a\\-!\\\\]{0,20}", name in "[ab\\[\\]]{0,30}") {
            let _ = matches(pattern.as_bytes(), name.as_bytes());
        }

        #[test]
        fn a_name_matches_itself_between_stars(name in "[a-z.]{1,20}") {
            let pattern = format!("*{name}*");
            let longer = format!("xx{}", name);
            prop_assert!(matches(pattern.as_bytes(), longer.as_bytes()));
        }
    }
}
