// The camera, a frame at a time.

export class Camera {
  constructor(video) {
    this.video = video;
    this.stream = null;
  }

  get runs() {
    return this.stream !== null;
  }

  /** Asks for the camera, then calls `useFrame(video)` with one frame after the other until `stop`. */
  async start(useFrame) {
    this.stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "user" } });
    this.video.srcObject = this.stream;
    await this.video.play();
    while (this.runs) {
      await useFrame(this.video);
      await new Promise(requestAnimationFrame);
    }
  }

  stop() {
    this.stream?.getTracks().forEach((track) => track.stop());
    this.stream = this.video.srcObject = null;
  }
}
