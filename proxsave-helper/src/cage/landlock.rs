//! The Landlock layer: a floor that must hold, and above it whatever the kernel has.

use super::{Access, CageError, Files};
use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, LandlockStatus, PathBeneath, Ruleset,
    RulesetAttr, RulesetCreatedAttr, RulesetStatus, Scope,
};

/// What must hold. Staging renames between directories, which ABI 1 cannot allow (Refer).
const FLOOR: ABI = ABI::V2;
/// The newest that is known here.
const NEWEST: ABI = ABI::V10;

/// Restricts this process (its one thread). Gives the ABI in force.
///
/// Never with `SoftRequirement`: it turns "not wholly supported" into "not enforced", without an error.
pub(super) fn enforce(files: &Files<'_>) -> Result<u8, CageError> {
    let failed = |error: &dyn std::fmt::Display| CageError::Landlock(error.to_string());
    let ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(FLOOR))
        .map_err(|error| CageError::NoLandlock(error.to_string()))?
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST))
        .and_then(|ruleset| ruleset.handle_access(net()))
        .and_then(|ruleset| ruleset.scope(Scope::AbstractUnixSocket | Scope::Signal))
        .map_err(|error| failed(&error))?;
    let mut created = ruleset.create().map_err(|error| failed(&error))?;
    if let Files::Beneath(rules) = files {
        for rule in rules {
            created =
                created.add_rule(PathBeneath::new(rule.dir, rights(rule.access))).map_err(|error| failed(&error))?;
        }
    }
    let status = created.restrict_self().map_err(|error| failed(&error))?;
    match (status.ruleset, status.landlock) {
        (RulesetStatus::NotEnforced, _) => Err(CageError::NoLandlock("not enforced".to_owned())),
        (_, LandlockStatus::Available { effective_abi, .. }) if effective_abi >= FLOOR => Ok(effective_abi as u8),
        (_, other) => Err(CageError::NoLandlock(format!("{other:?}"))),
    }
}

fn net() -> BitFlags<AccessNet> {
    AccessNet::BindTcp | AccessNet::ConnectTcp
}

fn rights(access: Access) -> BitFlags<AccessFs> {
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    match access {
        Access::Read => read,
        Access::Write => {
            read | AccessFs::WriteFile
                | AccessFs::Truncate
                | AccessFs::MakeReg
                | AccessFs::MakeDir
                | AccessFs::MakeSym
                | AccessFs::RemoveFile
                | AccessFs::RemoveDir
                | AccessFs::Refer
        }
    }
}
