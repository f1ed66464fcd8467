"""lamina's own docker command for steps on machines without docker's: a shell script inside, its work done outside."""
