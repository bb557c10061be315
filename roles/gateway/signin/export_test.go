package signin

// NobodyHash is what a password is compared with that was given for an unknown name.
const NobodyHash = nobodyHash
