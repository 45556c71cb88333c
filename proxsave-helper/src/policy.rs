//! Who may do what. No rule, no right.
//!
//! [`Policy`] is asked, never searched: everything else in the helper takes its answers from these four methods,
//! so that where the rules come from can change without anything else changing. For now they come from root's
//! command line alone ([`Policy::from_arguments`]).

use crate::caller::Caller;
use proxsave_proto::CategoryId;
use proxsave_proto::category::CATEGORIES;

/// The rules of one session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    rules: Vec<Rule>,
}

/// What one user may do. A user without a rule may do nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Rule {
    uid: u32,
    categories: Vec<CategoryId>,
    privileged_bits: bool,
}

impl Policy {
    /// The rules that `serve`'s arguments make: root and the user of `--for-user` may restore every category that a
    /// restore writes; set-id bits and file capabilities only with `--grant-privileged-bits`.
    #[must_use]
    pub fn from_arguments(for_user: Option<u32>, grant_privileged_bits: bool) -> Self {
        let categories: Vec<_> = CATEGORIES.iter().map(|row| row.id).filter(|id| id.is_written()).collect();
        let mut uids = vec![0];
        uids.extend(for_user.filter(|uid| *uid != 0));
        let rule = |uid| Rule { uid, categories: categories.clone(), privileged_bits: grant_privileged_bits };
        Self { rules: uids.into_iter().map(rule).collect() }
    }

    fn rule(&self, caller: &Caller) -> Option<&Rule> {
        self.rules.iter().find(|rule| rule.uid == caller.uid)
    }

    /// Whether this caller may open a session at all.
    #[must_use]
    pub fn admits(&self, caller: &Caller) -> bool {
        self.rule(caller).is_some()
    }

    /// Whether this caller may look at and restore this category.
    #[must_use]
    pub fn grants(&self, caller: &Caller, category: CategoryId) -> bool {
        self.rule(caller).is_some_and(|rule| rule.categories.contains(&category))
    }

    /// The categories this caller may restore, in table order.
    #[must_use]
    pub fn granted(&self, caller: &Caller) -> Vec<CategoryId> {
        self.rule(caller).map_or_else(Vec::new, |rule| rule.categories.clone())
    }

    /// Whether set-id bits and file capabilities are restored for this caller, instead of dropped and reported.
    #[must_use]
    pub fn grants_privileged_bits(&self, caller: &Caller) -> bool {
        self.rule(caller).is_some_and(|rule| rule.privileged_bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(uid: u32) -> Caller {
        Caller { uid, pid: None, name: None }
    }

    #[test]
    fn no_rule_no_right() {
        let policy = Policy::from_arguments(Some(1000), false);
        for uid in [0, 1000] {
            assert!(policy.admits(&caller(uid)));
            assert!(policy.grants(&caller(uid), CategoryId::Ssh));
            assert!(!policy.grants(&caller(uid), CategoryId::PveCluster), "cluster state is never written");
            assert!(!policy.grants_privileged_bits(&caller(uid)));
            assert_eq!(policy.granted(&caller(uid)).len(), 10);
        }
        assert!(!policy.admits(&caller(1001)));
        assert!(!policy.grants(&caller(1001), CategoryId::Ssh));
        assert!(policy.granted(&caller(1001)).is_empty());
        assert!(!Policy::from_arguments(None, true).admits(&caller(1000)));
    }

    #[test]
    fn privileged_bits_need_roots_word() {
        let policy = Policy::from_arguments(Some(1000), true);
        assert!(policy.grants_privileged_bits(&caller(1000)));
        assert!(!policy.grants_privileged_bits(&caller(1001)));
    }
}
