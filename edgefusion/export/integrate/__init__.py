"""What a mobile app needs besides the parts: INTEGRATE.md with the loop in Kotlin and Swift, and a raw golden."""
