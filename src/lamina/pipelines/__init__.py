"""bitbucket-pipelines.yml: load, choose, plan. Pure; a text goes in, frozen values come out."""
