"""Real servers and whole clusters for tests: started by the code of `chat up`, in a folder and on ports of their own."""
