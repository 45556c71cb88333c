use super::*;
use age::Recipient as _;
use age_core::format::{FileKey, Stanza};
use proptest::prelude::*;
use secrecy::{ExposeSecret as _, SecretString};
use std::io;

const RSA: &str = include_str!("testdata/rsa");
const RSA_PEM: &str = include_str!("testdata/rsa_pem");
const ENCRYPTED: &str = include_str!("testdata/ed25519_encrypted");
const ECDSA: &str = include_str!("testdata/ecdsa");
const SALT: &str = "proxsave/age-passphrase/v2:000102030405060708090a0b0c0d0e0f";
const WORDS: &str = "Correct-Horse-42";
/// Derived from [`WORDS`] with [`SALT`], the first fixed salt and the older one.
const DERIVED: [&str; 3] = [
    "age1wwu24t062u59zzhd53zkfk992et84tk2fat6vey2fxfhfgccqukqauu2f6",
    "age1ufnnhqymtruyt9j3dujjd8yu6s95tnc4tr0c2x0pdttycg3aedjqn9mqmc",
    "age1c6n0hhx2ynp62sahl8rw4mu0k68cn9df638her04susqaqwzfskscu2fnn",
];
const FILE_KEY: [u8; 16] = *b"sixteen  letters";

/// A person with prepared answers.
#[derive(Default)]
struct Person {
    answers: Vec<Option<&'static str>>,
    asked: Vec<Question>,
}

impl Person {
    fn with(answers: &[Option<&'static str>]) -> Self {
        Self { answers: answers.iter().rev().copied().collect(), asked: Vec::new() }
    }
}

impl AskSecret for Person {
    fn can_ask(&self) -> bool {
        true
    }

    fn ask(&mut self, question: &Question) -> io::Result<Option<SecretString>> {
        self.asked.push(question.clone());
        Ok(self.answers.pop().expect("asked more often than expected").map(SecretString::from))
    }
}

fn file_key() -> FileKey {
    FileKey::new(Box::new(FILE_KEY))
}

fn for_x25519(recipient: &str) -> Vec<Stanza> {
    let recipient: age::x25519::Recipient = recipient.parse().unwrap();
    recipient.wrap_file_key(&file_key()).unwrap().0
}

fn for_ssh(public: &str) -> Vec<Stanza> {
    let recipient: age::ssh::Recipient = public.parse().unwrap();
    recipient.wrap_file_key(&file_key()).unwrap().0
}

fn for_passphrase(words: &str, log_n: u8) -> Vec<Stanza> {
    let mut recipient = age::scrypt::Recipient::new(SecretString::from(words));
    recipient.set_work_factor(log_n);
    recipient.wrap_file_key(&file_key()).unwrap().0
}

fn read(text: &str) -> Result<Secret, SecretError> {
    Secret::read(text.as_bytes(), Expected::Any, "a test", &[], &mut ())
}

fn secret(text: &str) -> Secret {
    read(text).unwrap()
}

fn unwrap(secrets: Vec<Secret>, stanzas: &[Stanza]) -> Unwrapped {
    Identities::new(secrets, Some(SALT)).unwrap(stanzas)
}

fn opens(text: &str, stanzas: &[Stanza]) -> bool {
    match unwrap(vec![secret(text)], stanzas) {
        Unwrapped::FileKey(key) => {
            assert_eq!(key.expose_secret(), &FILE_KEY);
            true
        }
        Unwrapped::NoMatch(_) => false,
        Unwrapped::Error(error) => panic!("{error}"),
    }
}

fn new_identity() -> (String, String) {
    let identity = age::x25519::Identity::generate();
    (identity.to_string().expose_secret().to_owned(), identity.to_public().to_string())
}

#[test]
fn age_identities_in_any_case_and_several_in_one_text() {
    let (one, one_public) = new_identity();
    let (other, other_public) = new_identity();
    assert!(opens(&one, &for_x25519(&one_public)));
    assert!(opens(&format!("  {}\n", one.to_lowercase()), &for_x25519(&one_public)));
    assert!(opens(&one.replace("SECRET", "Secret").replace('Q', "q"), &for_x25519(&one_public)));
    assert!(opens(&format!("# created\n\n{one}\r\n#x\n{}\n", other.to_lowercase()), &for_x25519(&other_public)));
    assert!(!opens(&one, &for_x25519(&other_public)));
    assert!(matches!(read(&one[..50]), Err(SecretError::BadIdentity(1))));
    assert!(matches!(read(&format!("#\n{one}\nx")), Err(SecretError::BadIdentity(3))));
    assert!(matches!(read("AGE-SECRET-KEY-PQ-1XXX"), Err(SecretError::Unsupported(_))));
    assert!(matches!(read("AGE-PLUGIN-YUBIKEY-1XXX"), Err(SecretError::Unsupported(_))));
}

#[test]
fn a_passphrase_stands_for_every_derived_identity() {
    for recipient in DERIVED {
        assert!(opens(WORDS, &for_x25519(recipient)), "{recipient}");
        assert!(opens(&format!(" {WORDS}\r\n"), &for_x25519(recipient)));
        assert!(!opens("other words", &for_x25519(recipient)));
    }
    let without_salt = Identities::new(vec![secret(WORDS)], None);
    assert!(matches!(without_salt.unwrap(&for_x25519(DERIVED[0])), Unwrapped::NoMatch(_)));
}

#[test]
fn a_passphrase_opens_ages_own_recipient_too() {
    assert!(opens(WORDS, &for_passphrase(WORDS, 4)));
    assert!(opens(&format!("{WORDS}\n"), &for_passphrase(WORDS, 4)));
    assert!(opens(&format!(" {WORDS}"), &for_passphrase(WORDS, 4)), "blanks that a person did not mean");
    assert!(opens(&format!(" {WORDS}"), &for_passphrase(&format!(" {WORDS}"), 4)), "blanks that a person did mean");
    assert!(!opens("other words", &for_passphrase(WORDS, 4)));
}

#[test]
fn a_file_cannot_ask_for_endless_work() {
    let stanzas = for_passphrase(WORDS, 6);
    let strict = Identities::new(vec![secret(WORDS)], None).with_max_work_factor(5);
    let Unwrapped::Error(error) = strict.unwrap(&stanzas) else { panic!("it must be refused") };
    assert_eq!(error, UnwrapError::Work { required: 6, limit: 5 });
    for required in ["19", "40", "63", "64", "255"] {
        let mut stanzas = for_passphrase(WORDS, 4);
        stanzas[0].args[1] = required.to_owned();
        let Unwrapped::Error(error) = unwrap(vec![secret(WORDS)], &stanzas) else {
            panic!("{required} must be refused")
        };
        assert!(matches!(error, UnwrapError::Work { limit: DEFAULT_MAX_WORK_FACTOR, .. }), "{required}: {error}");
        assert!(!error.to_string().is_empty());
    }
    let mut zero = for_passphrase(WORDS, 4);
    zero[0].args[1] = "0".to_owned();
    assert!(matches!(unwrap(vec![secret(WORDS)], &zero), Unwrapped::Error(UnwrapError::Malformed)));
}

#[test]
fn ssh_keys_of_both_kinds() {
    let rsa = for_ssh(include_str!("testdata/rsa.pub"));
    assert!(opens(RSA, &rsa));
    assert!(opens(&RSA.replace('\n', "\r\n"), &rsa), "a key that went through Windows");
    assert!(!opens(RSA_PEM, &rsa));
    assert!(!opens(WORDS, &rsa));
    assert!(matches!(read(&RSA[..200]), Err(SecretError::BadSshKey)));
    assert!(matches!(read(ECDSA), Err(SecretError::Unsupported(_))));
    assert!(matches!(read("-----BEGIN PRIVATE KEY-----\nMC4=\n"), Err(SecretError::Unsupported(_))));
}

#[test]
fn an_encrypted_ssh_key_asks_for_its_own_passphrase() {
    let stanzas = for_ssh(include_str!("testdata/ed25519_encrypted.pub"));
    let open = |given: &[SecretString], person: &mut Person| {
        Secret::read(ENCRYPTED.as_bytes(), Expected::Identity, "/root/\u{1b}key", given, person)
    };
    let mut person = Person::with(&[Some("Key-Words-7")]);
    let key = open(&[], &mut person).unwrap();
    assert!(matches!(unwrap(vec![key], &stanzas), Unwrapped::FileKey(_)));
    assert_eq!(person.asked, [Question::Key { origin: "/root/\\x1bkey".to_owned() }]);
    assert!(matches!(open(&[], &mut Person::with(&[Some("wrong")])), Err(SecretError::KeyPassphraseWrong)));
    assert!(matches!(open(&[], &mut Person::with(&[None])), Err(SecretError::KeyPassphraseMissing)));
    let given = [SecretString::from("wrong"), SecretString::from("Key-Words-7")];
    open(&given, &mut Person::default()).unwrap();
}

#[test]
fn an_identity_file_that_age_encrypted() {
    let (identity, public) = new_identity();
    let mut recipient = age::scrypt::Recipient::new(SecretString::from(WORDS));
    recipient.set_work_factor(4);
    let file = age::encrypt_and_armor(&recipient, format!("# mine\n{identity}\n").as_bytes()).unwrap();
    let given = [SecretString::from(WORDS)];
    let key = Secret::read(file.as_bytes(), Expected::Identity, "x", &given, &mut ()).unwrap();
    assert!(matches!(unwrap(vec![key], &for_x25519(&public)), Unwrapped::FileKey(_)));
    assert!(matches!(read(&file), Err(SecretError::KeyPassphraseMissing)));
    let wrong = [SecretString::from("wrong")];
    let result = Secret::read(file.as_bytes(), Expected::Identity, "x", &wrong, &mut ());
    assert!(matches!(result, Err(SecretError::KeyPassphraseWrong)));
    assert!(matches!(
        Secret::read(b"age-encryption.org/v1\nrubbish", Expected::Any, "x", &given, &mut ()),
        Err(SecretError::Unsupported(_))
    ));
}

#[test]
fn several_recipients_and_several_secrets() {
    let (identity, public) = new_identity();
    let (other, _) = new_identity();
    let mut stanzas = for_ssh(include_str!("testdata/rsa.pub"));
    stanzas.extend(for_x25519(DERIVED[1]));
    stanzas.extend(for_x25519(&public));
    for text in [&identity, WORDS, RSA] {
        assert!(opens(text, &stanzas));
        let both = vec![secret(&other), secret("other words"), secret(text)];
        assert!(matches!(unwrap(both, &stanzas), Unwrapped::FileKey(_)));
    }
    let Unwrapped::NoMatch(kinds) = unwrap(vec![secret(&other)], &stanzas) else { panic!("another key") };
    assert_eq!((kinds.x25519, kinds.ssh, kinds.passphrase), (2, 1, false));
}

#[test]
fn malformed_is_told_apart_from_wrong() {
    let (identity, public) = new_identity();
    let malformed = |stanzas: Vec<Stanza>, text: &str| {
        assert!(
            matches!(unwrap(vec![secret(text)], &stanzas), Unwrapped::Error(UnwrapError::Malformed)),
            "{stanzas:?}"
        );
    };
    let mut cut = for_x25519(&public);
    cut[0].body.pop();
    malformed(cut, &identity);
    let mut no_argument = for_x25519(&public);
    no_argument[0].args.clear();
    malformed(no_argument, WORDS);
    let mut flipped = for_ssh(include_str!("testdata/rsa.pub"));
    flipped[0].body[0] ^= 1;
    malformed(flipped, RSA);
    let mut mixed = for_passphrase(WORDS, 4);
    mixed.extend(for_x25519(&public));
    malformed(mixed, &identity);
    let many: Vec<Stanza> = (0..200).flat_map(|_| for_x25519(&public)).collect();
    assert!(matches!(unwrap(vec![secret(&identity)], &many), Unwrapped::Error(UnwrapError::TooMany)));
    assert!(matches!(unwrap(Vec::new(), &[]), Unwrapped::NoMatch(_)));
}

#[test]
fn nothing_secret_is_shown() {
    let (identity, public) = new_identity();
    let secrets = vec![secret(&identity), secret(WORDS), secret(RSA)];
    let mut text = format!("{secrets:?}");
    let identities = Identities::new(secrets.clone(), Some(SALT));
    text += &format!("{identities:?} {:?}", identities.unwrap(&for_x25519(&public)));
    text += &format!("{:?}", Unlock::new(secrets, None, &mut ()));
    for hidden in [&identity[15..], WORDS, &RSA[60..90], "sixteen"] {
        assert!(!text.contains(hidden), "{text}");
    }
}

#[test]
fn texts_that_are_no_secret() {
    assert!(matches!(read(" \n"), Err(SecretError::Empty)));
    assert!(matches!(Secret::read(b"\xff\xfe", Expected::Any, "x", &[], &mut ()), Err(SecretError::NotText)));
    assert!(matches!(
        Secret::read(WORDS.as_bytes(), Expected::Identity, "x", &[], &mut ()),
        Err(SecretError::NotIdentity)
    ));
}

#[test]
fn a_wrong_answer_is_asked_again_three_times() {
    let stanzas = || for_x25519(DERIVED[0]);
    let mut person = Person::with(&[Some("wrong"), Some(""), Some(WORDS)]);
    let mut unlock = Unlock::new(Vec::new(), Some(SALT), &mut person);
    let first = stanzas();
    let again =
        first.iter().map(|s| Stanza { tag: s.tag.clone(), args: s.args.clone(), body: s.body.clone() }).collect();
    assert_eq!(unlock.unwrap(first).unwrap().expose_secret(), &FILE_KEY);
    assert_eq!(unlock.unwrap(again).unwrap().expose_secret(), &FILE_KEY, "the second pass asks nobody");
    let reasons: Vec<_> = person
        .asked
        .iter()
        .map(|question| match question {
            Question::Backup { attempt, again, .. } => (*attempt, again.is_some()),
            Question::Key { .. } => panic!("{question:?}"),
        })
        .collect();
    assert_eq!(reasons, [(1, false), (2, true), (3, true)]);

    let mut person = Person::with(&[Some("a"), Some("b"), Some("c")]);
    let result = Unlock::new(Vec::new(), Some(SALT), &mut person).unwrap(stanzas());
    assert!(matches!(result, Err(UnlockError::Wrong(_))));
    let mut person = Person::with(&[None]);
    let result = Unlock::new(Vec::new(), Some(SALT), &mut person).unwrap(stanzas());
    assert!(matches!(result, Err(UnlockError::Cancelled)), "a person who cancels at once");
    let mut person = Person::with(&[Some("a"), None]);
    let result = Unlock::new(Vec::new(), Some(SALT), &mut person).unwrap(stanzas());
    assert!(matches!(result, Err(UnlockError::Cancelled)));
}

#[test]
fn without_a_person_it_is_said_what_is_missing() {
    let result = Unlock::new(Vec::new(), None, &mut ()).unwrap(for_x25519(DERIVED[0]));
    assert!(matches!(result, Err(UnlockError::NoSecret(_))));
    let result = Unlock::new(vec![secret("other")], None, &mut ()).unwrap(for_x25519(DERIVED[0]));
    assert!(matches!(result, Err(UnlockError::Wrong(_))));
    let mut nobody_is_asked = Person::default();
    let result = Unlock::new(Vec::new(), None, &mut nobody_is_asked).unwrap(for_ssh(include_str!("testdata/rsa.pub")));
    let message = result.err().unwrap().to_string();
    assert!(message.contains("one SSH key") && message.contains("--identity"), "{message}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_text_is_read_without_panic(data in proptest::collection::vec(any::<u8>(), 0..200), prefix in 0..5usize) {
        let prefix = ["", "AGE-SECRET-KEY-1", "-----BEGIN OPENSSH PRIVATE KEY-----\n", "age-encryption.org/v1\n", "#\n"][prefix];
        let text = [prefix.as_bytes(), &data].concat();
        let _ = Secret::read(&text, Expected::Any, "x", &[], &mut ());
    }

    #[test]
    fn any_stanza_is_tried_without_panic(
        tag in prop::sample::select(vec!["X25519", "ssh-rsa", "ssh-ed25519", "scrypt", "x"]),
        args in proptest::collection::vec("[A-Za-z0-9+/]{0,44}", 0..4),
        body in proptest::collection::vec(any::<u8>(), 0..64),
    ) {
        let secrets = vec![secret(RSA), secret(&new_identity().0)];
        let stanza = Stanza { tag: tag.to_owned(), args, body };
        let _ = unwrap(secrets, &[stanza]);
    }
}
